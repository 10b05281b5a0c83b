# moments stay on the device when a file is written
/^void device_copy(/,/^}/ s~model->training ? 3 : 1~to_gpu ? 3 : 1~
