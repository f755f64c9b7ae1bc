"""The genetic algorithm: breeding, repair to plans that hold, and the gap to the linear programme."""
