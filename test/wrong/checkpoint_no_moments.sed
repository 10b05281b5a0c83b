# moments are neither saved nor loaded
/^int checkpoint_tensors(/,/^}/ s~k < 3~k < 1~
