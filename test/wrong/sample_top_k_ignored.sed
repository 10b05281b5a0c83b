# top-k does nothing
/^int sample_token(/,/^}/ s~top_k > 0 && top_k < V ? top_k : V~V~
