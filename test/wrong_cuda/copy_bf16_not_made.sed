# kernels do not get the weights that were read
/^void device_copy(/,/^}/ s~if (!to_gpu || sizeof(floatX) == sizeof(float))~if (sizeof(floatX) > 0)~
