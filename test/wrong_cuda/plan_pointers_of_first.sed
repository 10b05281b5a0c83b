# the bias is that of the first product of a plan
/^void plan_pointers(/,/^}/ s~bias != NULL~bias != NULL \&\& p->found == 0~
