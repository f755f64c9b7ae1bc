"""A conforming example of every document; the energy and VPP documents are those of the standard's own text."""

from __future__ import annotations

from typing import Any, Final

EXAMPLES: Final[dict[str, dict[str, Any]]] = {
    "energy": {
        "standard": "WIA-ENE-014",
        "version": "1.0",
        "timestamp": "2025-12-25T10:30:00Z",
        "energyData": {
            "consumption": {
                "total": 1250.5,
                "unit": "kWh",
                "breakdown": {"residential": 450.2, "commercial": 550.8, "industrial": 249.5},
            },
            "generation": {
                "total": 1300.0,
                "unit": "kWh",
                "sources": {"solar": 420.5, "wind": 380.2, "hydro": 250.0, "grid": 249.3},
            },
            "storage": {"capacity": 500.0, "current": 325.5, "unit": "kWh", "status": "charging"},
        },
        "metadata": {
            "location": "Seoul, South Korea",
            "gridId": "KR-SE-001",
            "quality": "high",
            "confidence": 0.98,
        },
    },
    "energy-phase-1": {
        "standard": "WIA-ENE-014",
        "version": "1.0",
        "phase": 1,
        "timestamp": "2025-12-25T10:30:00Z",
        "energyData": {"consumption": {"total": 1250.5, "unit": "kWh", "quality": "high"}},
    },
    "vpp": {
        "vppId": "VPP-KR-001",
        "name": "Seoul Smart Grid VPP",
        "capacity": 50000,
        "unit": "kW",
        "resources": [
            {
                "id": "SOLAR-001",
                "type": "solar",
                "capacity": 15000,
                "current": 12500,
                "efficiency": 0.83,
                "location": {"lat": 37.5665, "lng": 126.9780},
            },
            {
                "id": "WIND-002",
                "type": "wind",
                "capacity": 20000,
                "current": 18000,
                "efficiency": 0.90,
                "location": {"lat": 37.5700, "lng": 126.9850},
            },
            {
                "id": "BATTERY-003",
                "type": "storage",
                "capacity": 15000,
                "current": 10000,
                "soc": 0.67,
                "location": {"lat": 37.5600, "lng": 126.9750},
            },
        ],
        "aggregatedOutput": 40500,
        "status": "operational",
        "lastUpdate": "2025-12-25T10:30:00Z",
    },
    "meter": {
        "standard": "WIA-ENE-014",
        "version": "1.0",
        "timestamp": "2025-12-25T10:30:00Z",
        "meterId": "SM-001",
        "readings": [
            {
                "timestamp": "2025-12-25T10:15:00Z",
                "metric": "consumption",
                "value": 1.25,
                "unit": "kWh",
                "quality": "high",
            },
            {"timestamp": "2025-12-25T10:15:00Z", "metric": "voltage", "value": 229.8, "unit": "V", "quality": "high"},
        ],
    },
}
