"""What it means to tell devices a plan, and what a plan may not change of what they were told."""
