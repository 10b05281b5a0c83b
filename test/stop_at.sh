# For scripts that test resuming; $program is the trainer. To be sourced.
# Equal settings: --steps decides the learning rate, so the run that stops has the same --steps. It is stopped at exactly the
# wanted step by a pipe in the place of model.safetensors.tmp: the first checkpoint goes into it, then fsync fails.
stop_at() { # step, file for its checkpoint, flags
    rm -rf run
    mkdir run
    mkfifo run/model.safetensors.tmp
    cat run/model.safetensors.tmp > "$2" &
    reader=$! step=$1
    shift 2
    "$program" "$@" --save-every $step > stop.out 2>&1
    if [ -p run/model.safetensors.tmp ]; then : <> run/model.safetensors.tmp; fi # nobody wrote: let the reader go
    wait $reader
    rm -rf run
}
