"""OpenTelemetry spans of transactions and steps; nothing here is imported where the setting `tracing` is not set."""
