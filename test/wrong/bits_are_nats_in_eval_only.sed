# --eval-only says nats for bits
/^int main(/,/^}/ s~loss, loss / log1p(1\.0), val\.width~loss, loss, val.width~
