"""The parts of one machine: PostgreSQL, MQTT broker and chain as supervised children under one folder."""
