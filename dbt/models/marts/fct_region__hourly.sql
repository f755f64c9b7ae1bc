{{ config(
    pre_hook="{{ replace_build_hours() }}",
    indexes=[{'columns': ['hour_utc', 'region_id'], 'unique': True}]
) }}
select
    region_id,
    hour_utc,
    max(known_at_utc) as known_at_utc,
    sum(energy_kwh) filter (where role = 'region_load') as load_kwh,
    sum(energy_kwh) filter (where role = 'load') as homes_load_kwh,
    sum(energy_kwh) filter (where role = 'pv') as homes_pv_kwh,
    sum(energy_kwh) filter (where role = 'solar') as solar_kwh,
    sum(energy_kwh) filter (where role = 'wind') as wind_kwh,
    avg(mean_value) filter (where role = 'temperature') as temperature_c
from {{ ref('fct_series__hourly') }}
where is_latest and {{ in_build_hours('hour_utc') }}
group by region_id, hour_utc
