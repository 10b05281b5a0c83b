# one token more than top-k
/^int sample_token(/,/^}/ s~top_k < V ? top_k : V~top_k < V ? top_k + 1 : V~
