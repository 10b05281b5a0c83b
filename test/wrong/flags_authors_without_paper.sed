# --preset authors leaves out what it shares with paper
/^Settings flags_read(/,/^}/ s~preset >= 1~preset == 1~
