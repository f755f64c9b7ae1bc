select
    series_id,
    ts as interval_start_utc,
    date_trunc('hour', ts, 'UTC') as hour_utc,
    revision,
    value,
    quality,
    received_at as received_at_utc
from {{ source('validated', 'reading') }}
