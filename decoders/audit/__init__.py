"""The audit: rules over a `State`, each with a stable id. `audit.audit` runs them all."""
