"""Why a plan is as it is, in names of limits and in sentences."""
