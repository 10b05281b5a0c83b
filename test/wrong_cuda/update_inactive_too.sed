# experts that are not active are stepped
/^void device_update(/,/^}/ s~!model->layer\[t->layer\]\.mask\[e\]~0~
