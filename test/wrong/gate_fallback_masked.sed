# the fallback picks inactive experts too
/^int gate_forward(/,/^}/ s~if (mask\[e\] && (best~if ((best~
