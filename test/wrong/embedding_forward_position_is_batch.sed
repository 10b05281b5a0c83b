# the position embedding goes by the sequence instead of by the position in it
/^void embedding_forward(/,/^}/ s~i % T~i / T~
