# inactive rows count as well
/^float simplicity_loss(/,/^}/ s~sum += mask\[e\] ? wnorm\[e\] : 0\.0f~sum += wnorm[e]~
