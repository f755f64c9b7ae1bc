{{ config(
    pre_hook="{{ replace_build_hours() }}",
    indexes=[{'columns': ['hour_utc', 'participant_id'], 'unique': True}]
) }}
with expected as (
    select participant_id, region_id, count(*) as series_count
    from {{ ref('stg_registry__series') }}
    where participant_id is not null and role in ('load', 'pv', 'solar', 'wind', 'storage')
    group by participant_id, region_id
),

measured as (
    -- floats are summed in one order, so that a rebuilt hour is the same to the last digit
    select
        participant_id,
        hour_utc,
        count(*) as series_count,
        max(known_at_utc) as known_at_utc,
        coalesce(sum(energy_kwh order by series_id) filter (where role = 'load'), 0) as consumption_kwh,
        coalesce(sum(energy_kwh order by series_id) filter (where role in ('pv', 'solar', 'wind')), 0) as generation_kwh,
        coalesce(sum(energy_kwh order by series_id) filter (where role = 'storage'), 0) as storage_kwh,
        bool_or(substituted) as substituted
    from {{ ref('fct_series__hourly') }}
    where is_latest
        and participant_id is not null
        and role in ('load', 'pv', 'solar', 'wind', 'storage')
        and {{ in_build_hours('hour_utc') }}
    group by participant_id, hour_utc
)

select
    e.region_id,
    m.participant_id,
    m.hour_utc,
    m.known_at_utc,
    m.consumption_kwh,
    m.generation_kwh,
    m.storage_kwh,
    m.generation_kwh + m.storage_kwh - m.consumption_kwh as net_injection_kwh,
    m.series_count = e.series_count as complete,
    m.substituted
from measured as m
inner join expected as e on m.participant_id = e.participant_id
