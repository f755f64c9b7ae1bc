"""What assets, checks and sensors reach the world through: the database, the chain and dbt.

Keep asset logic out of this package. A field left empty is filled from the settings when a run starts, so that no
secret stands in the definitions or in the UI.
"""

from energy_cloud_dagster.resources.chain import Chain
from energy_cloud_dagster.resources.database import Database
from energy_cloud_dagster.resources.dbt import Dbt

__all__ = ["Chain", "Database", "Dbt"]
