"""An app whose shared tasks are imported before it exists, or found after the plugin was installed."""
