{{ config(meta={'dagster': {'ref': {'name': 'fct_region__hourly'}}}) }}
-- What the participants' homes generated and used is what the region's mart says they did.
select r.region_id, r.hour_utc
from {{ ref('fct_region__hourly') }} as r
inner join (
    select region_id, hour_utc, sum(consumption_kwh) as load_kwh
    from {{ ref('fct_participant__hourly') }}
    where {{ in_build_hours('hour_utc') }}
    group by region_id, hour_utc
) as p on r.region_id = p.region_id and r.hour_utc = p.hour_utc
where {{ in_build_hours('r.hour_utc') }}
    and abs(coalesce(r.homes_load_kwh, 0) - p.load_kwh) > 1e-6
