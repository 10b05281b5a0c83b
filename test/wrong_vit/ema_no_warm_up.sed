# the decay is full from the first step
/^void vit_ema_update(/,/^}/ s~warm < decay ? warm : decay~decay~
