# tokens without experts are not counted
/^void routing_add(/,/^}/ s~r\[l\]\.none += a->unrouted~r[l].none += 0 * a->unrouted~
