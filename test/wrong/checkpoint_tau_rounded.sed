# tau is saved with few digits
/^void checkpoint_save(/,/^}/ s~\\"scale\\":\\"%\.9g\\"~\\"scale\\":\\"%.2g\\"~
