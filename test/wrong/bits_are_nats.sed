# validation says nats for bits in the log
/^void validate(/,/^}/ s~"bits\\":%\.6f", p->step, loss, loss / log1p(1\.0)~"bits\\":%.6f", p->step, loss, loss~
