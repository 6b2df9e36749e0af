"""Sales per tier and minute, for dashboards: a read model."""
