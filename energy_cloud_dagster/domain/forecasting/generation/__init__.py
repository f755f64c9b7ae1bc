"""What sun and wind will make of a plant: physics fitted to its own output, and the ladders over them."""
