"""``deerflow-backends demo``: two gateway replicas, a worker and ten clients, as real processes over real HTTP."""
