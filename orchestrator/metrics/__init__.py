"""What a deployment measures of itself: names, figures in every actor's status, export to Prometheus through Ray."""
