"""An lbctl backend that keeps its program in a JSON file; `backend` is its door."""
