{# Tests of the marts look at the hours that the build replaced: their cost does not grow with the history. #}
{% macro get_where_subquery(relation) -%}
  {%- if relation.schema == 'marts' -%}
    (select * from {{ relation }} where {{ in_build_hours("hour_utc") }}) as dbt_subquery
  {%- else -%}
    {{ relation }}
  {%- endif -%}
{%- endmacro %}
