"""`python -m energy_cloud_dagster.cli`."""

from energy_cloud_dagster.cli import main

main()
