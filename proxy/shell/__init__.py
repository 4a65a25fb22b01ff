"""Everything done: each module a thin shell around one library; shells never import each other."""
