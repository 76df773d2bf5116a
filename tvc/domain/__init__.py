"""The algebra of task vectors: names, recipes, snapshots and plans. Standard library only."""
