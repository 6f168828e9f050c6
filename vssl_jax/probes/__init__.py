"""What a frozen encoder is worth: features, simple classifiers on them, and the report."""
