"""Four services of an essay platform, each behind an idempotency sidecar."""
