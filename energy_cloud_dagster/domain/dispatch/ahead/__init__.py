"""Plans for futures that are bands, and plans that are made anew at every step."""
