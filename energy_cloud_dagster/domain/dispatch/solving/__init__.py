"""From a problem to its optimum: arrays of a programme, HiGHS through PuLP, goals in order, integers, conflicts."""
