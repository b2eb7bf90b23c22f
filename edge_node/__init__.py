"""The gateway: sensor streams in, alerts and summaries out."""
