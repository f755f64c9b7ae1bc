select
    s.series_id,
    s.device_id,
    s.metric,
    s.unit,
    s.kind,
    s.role,
    d.region_id,
    d.device_type,
    d.customer_class,
    d.participant_id,
    d.interval_minutes
from {{ source('registry', 'series') }} as s
inner join {{ source('registry', 'device') }} as d on s.device_id = d.device_id
