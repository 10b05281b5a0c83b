# changes a2.q5
# In forward the weight of an open expert was gate / sqrt(k), not gate / k; mean_backward has to undo that.
/^void mean_backward(/,/^}/ s~weight_e = gate_e / k\. In~weight_e = gate_e / sqrt(k). In~
/^void mean_backward(/,/^}/ s~dgate_e = dweight_e / k$~dgate_e = dweight_e / sqrt(k)~
/^void mean_backward(/,/^}/ s~the same minus its mean over the token's open gates~the same minus what the root in forward asks for~
/^void mean_backward(/,/^}/ s~1\.0f / (float)(k\[i\] > 0 ? k\[i\] : 1)~1.0f / sqrtf((float)(k[i] > 0 ? k[i] : 1))~
/^void mean_backward(/,/^}/ s~mean += share \* d\[e\]~mean += 0.5f * share * share * d[e]~
/^void mean_forward(/,/^}/ s~= open / k: every chosen expert counts the same~= open / sqrt(k), not divided by k~
/^void mean_forward(/,/^}/ s~(float)(k\[i / E\] > 0 ? k\[i / E\] : 1)~sqrtf((float)(k[i / E] > 0 ? k[i / E] : 1))~
