{{ config(
    pre_hook="{{ replace_build_hours() }}",
    indexes=[{'columns': ['hour_utc', 'region_id'], 'unique': True}]
) }}
-- Floats are summed in one order, so that a rebuilt hour is the same to the last digit.
select
    region_id,
    hour_utc,
    max(known_at_utc) as known_at_utc,
    sum(energy_kwh order by series_id) filter (where role = 'region_load') as load_kwh,
    sum(energy_kwh order by series_id) filter (where role = 'load') as homes_load_kwh,
    sum(energy_kwh order by series_id) filter (where role = 'pv') as homes_pv_kwh,
    sum(energy_kwh order by series_id) filter (where role = 'solar') as solar_kwh,
    sum(energy_kwh order by series_id) filter (where role = 'wind') as wind_kwh,
    avg(mean_value order by series_id) filter (where role = 'temperature') as temperature_c
from {{ ref('fct_series__hourly') }}
where is_latest and {{ in_build_hours('hour_utc') }}
group by region_id, hour_utc
