# tokens that the fallback serves do not count as unrouted
/^int gate_forward(/,/^}/ s~unrouted++~unrouted += !fallback~
