# DynMoE in plain C. `make` alone prints the targets and what was found on this machine.
# No configure step: the probes below take well under a second. GNU make 3.81 (macOS) is enough.

# ---- what you may set, for example: make train STEPS=500 OUT=out2 ARGS="--lr 1e-3" ------------------------------------

# steps of training, where its results go, and any further flags of the program
STEPS ?= 4000
OUT ?= out
ARGS ?=
# which BLAS multiplies the matrices: auto, openblas, accelerate (macOS), none (our own loops)
BLAS ?= auto
# NATIVE=0 gives code that also runs on older machines of the same kind, and is slower
NATIVE ?= 1
# CUDA_ON_CPU=1 builds the CUDA programs with g++ for the CPU: no GPU, no nvcc (docs/cuda_on_cpu.md)
CUDA_ON_CPU ?= 0
CUDA ?= 0

# gcc's OpenMP lets threads spin while they wait. Beside other work that makes training several times slower; sleeping soon
# costs nothing measurable on a quiet machine.
GOMP_SPINCOUNT ?= 1000
export GOMP_SPINCOUNT

# Built-in rules would make dev/x out of dev/x.sh.
MAKEFLAGS += --no-builtin-rules
.DELETE_ON_ERROR:
.PHONY: help probes all data data-vit train train-vit ablation compare bench bench-peer plot test test-programs \
        test-scripts test-builds test-unit test-sanitize test-fuzz test-cuda test-long ptxas valgrind mutants \
        mutants-cuda fixture fixture-vit fixture-cuda fixtures-again check-style docs-flags docs-links docs-examples \
        pictures view test-view assignment course grade hint solution assignments-check ladder kernels docs-kernels \
        clean FORCE

help:
	@echo "DynMoE in plain C. Targets:"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' Makefile
	@echo "CUDA: make train CUDA=1 on a GPU; with CUDA_ON_CPU=1 any target runs the CUDA source without one."
	@echo "Settings: STEPS=$(STEPS) OUT=$(OUT) ARGS=\"...\" BLAS=auto|openblas|accelerate|none NATIVE=0 FIXTURE=file CC=compiler"
	@echo "On this machine:"
	$(PROBES)

# ---- probes: what is decided here is also what dev/setup.sh goes by ---------------------------------------------------

# The first of the flag sets $(3) with which the C text $(2), headers $(1), compiles, links and runs: what it printed, then the set.
first_that_runs = $(shell d=$$(mktemp -d) && echo '$(2)' > $$d/a.c && for f in $(3); do \
    $(CC) $(1) $$d/a.c -o $$d/a $$f && $$d/a && echo "$$f" && break; done 2>/dev/null; rm -rf $$d)
, := ,

# The last set holds no machine flag: an empty answer means that there is no working compiler at all.
MARCH := $(call first_that_runs,,int main(void) { return 0; },$(if $(filter 0,$(NATIVE)),,"-march=native" "-mcpu=native") "-g")

# Apple's compiler needs -Xclang, and libomp from Homebrew. Without OpenMP its pragmas are only comments.
BREW := $(firstword $(wildcard /opt/homebrew/opt /usr/local/opt))
OMP_TEST := int main(void) { return omp_get_max_threads() < 1; }
OMP := $(or $(call first_that_runs,-include omp.h,$(OMP_TEST),"-fopenmp"),$(if $(BREW),$(call first_that_runs, \
    -include omp.h -I$(BREW)/libomp/include,$(OMP_TEST),"-Xclang -fopenmp -I$(BREW)/libomp/include -L$(BREW)/libomp/lib -lomp")))
NO_OMP := -Wno-unknown-pragmas

# OpenBLAS comes in variants: the OpenMP one shares our threads, one with threads of its own competes with them. Debian keeps
# them side by side, so that one is named with its folder (and rpath: it is what runs); Fedora calls it openblaso.
# Three words, name, version and variant, come from the library that really ran.
BLAS_TEST := int main(void) { float a = 2, c = 0; char v[32] = "?"; int kind = openblas_get_parallel(); \
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, 1, 1, 1, 1, &a, 1, &a, 1, 0, &c, 1); \
    sscanf(openblas_get_config(), "OpenBLAS %31s", v); \
    printf("OpenBLAS %s (%s) ", v, kind == 2 ? "OpenMP" : kind == 1 ? "pthreads" : "serial"); \
    return c != 4; }
DEBIAN := $(patsubst %/libopenblas.so,%,$(firstword $(wildcard /usr/lib/*/openblas-openmp/libopenblas.so)))
BLAS_SETS := $(if $(DEBIAN),"-I$(subst /lib/,/include/,$(DEBIAN)) -L$(DEBIAN) -Wl$(,)-rpath$(,)$(DEBIAN) -lopenblas") \
    $(if $(wildcard /usr/include/openblas),"-I/usr/include/openblas -lopenblaso") \
    "$(shell pkg-config --cflags --libs openblas 2>/dev/null)" \
    $(if $(BREW),"-I$(BREW)/openblas/include -L$(BREW)/openblas/lib -lopenblas") "-lopenblas"
ACCELERATE_TEST := int main(void) { float a = 2; printf("Accelerate of macOS "); return cblas_snrm2(1, &a, 1) != 2; }
ifneq ($(filter auto openblas,$(BLAS)),)
  BLAS_RAN := $(call first_that_runs,-include stdio.h -include cblas.h,$(BLAS_TEST),$(BLAS_SETS))
endif
ifeq ($(BLAS_RAN)$(filter none openblas,$(BLAS))$(filter-out Darwin,$(shell uname)),)
  BLAS_RAN := $(call first_that_runs,-include stdio.h -include Accelerate/Accelerate.h,$(ACCELERATE_TEST), \
      "-DUSE_ACCELERATE -DACCELERATE_NEW_LAPACK -framework Accelerate")
endif
ifeq ($(BLAS_RAN)$(filter auto none,$(BLAS)),)
  $(error BLAS=$(BLAS) does not work here: it is one of auto, openblas, accelerate, none; dev/setup.sh installs OpenBLAS)
endif
BLAS_NAME := $(if $(BLAS_RAN),$(wordlist 1,3,$(BLAS_RAN)),our own slow loops)
BLAS_LIBS := $(wordlist 4,99,$(BLAS_RAN))

# These are looked for only when a target asks, and then once.
CHECK = $(eval CHECK := $(call first_that_runs,-include check.h,$(CHECK_TEST),$(CHECK_SETS)))$(CHECK)
CHECK_TEST := int main(void) { return srunner_create(suite_create("a")) == 0; }
CHECK_SETS = "$(shell pkg-config --cflags --libs check 2>/dev/null)" "-lcheck -lsubunit -lrt -lm -lpthread" \
    "-lcheck -lm -lpthread" $(if $(BREW),"-I$(BREW)/check/include -L$(BREW)/check/lib -lcheck")
SANITIZE = $(eval SANITIZE := $(call first_that_runs,,int main(void) { return 0; },"-fsanitize=address$(,)undefined"))$(SANITIZE)
PYTHON = $(eval PYTHON := $(shell for p in python3 /usr/bin/python3; do $$p -c 'from importlib.util import find_spec as f; \
    exit(not (f("torch") and f("numpy") and f("matplotlib")))' 2>/dev/null && echo $$p && break; done))$(PYTHON)
CC_VERSION = $(shell $(CC) --version 2>/dev/null | head -n 1)
NVCC = $(eval NVCC := $(shell command -v nvcc 2>/dev/null || ls /usr/local/cuda/bin/nvcc 2>/dev/null))$(NVCC)
# for the GPU that is here, else for those of the last years: the choice is printed
GPU = $(eval GPU := $(shell nvidia-smi -L 2>/dev/null | head -n 1))$(GPU)
ARCH = $(if $(GPU),-arch=native,-gencode arch=compute_80$(,)code=sm_80 -gencode arch=compute_90$(,)code=sm_90)
CLANGXX = $(eval CLANGXX := $(shell command -v clang++ 2>/dev/null))$(CLANGXX)

# $(1) what, $(2) not empty: found, $(3) what was found, $(4) what is lost without it, $(5) what installs it
probe = @printf '  %-8s %-9s %s\n' $(if $(2),found,missing) '$(1)' '$(if $(2),$(3),$(4); to install: $(5))'
define PROBES
$(call probe,compiler,$(MARCH),$(CC_VERSION) $(MARCH),nothing works,dev/setup.sh (Debian: gcc libc6-dev))
$(call probe,BLAS,$(BLAS_RAN),$(BLAS_NAME),our own loops are slow,dev/setup.sh (Debian: libopenblas-openmp-dev))
$(call probe,OpenMP,$(OMP),$(OMP),one thread only,part of gcc; libomp for clang)
$(call probe,Check,$(CHECK),for make test,no make test,dev/setup.sh (Debian: check))
$(call probe,torch,$(PYTHON),$(PYTHON) with numpy and matplotlib,no new fixtures and no plots,dev/setup.sh --oracle)
$(call probe,nvcc,$(NVCC),$(NVCC)$(if $(GPU),$(,) $(GPU),$(,) no GPU),CUDA_ON_CPU=1 does without,the CUDA toolkit)
$(call probe,clang++,$(CLANGXX),for the check mode of CUDA_ON_CPU=1,no check mode,dev/setup.sh (Debian: clang))
endef
probes:
	$(PROBES)

# ---- programs: one source file each, built beside it ------------------------------------------------------------------

# -ffast-math and -Ofast are never used: they let the compiler assume that there is no NaN, and then nobody sees one.
WARN := -Wall -Wextra -Werror
BASE := -O3 $(MARCH) -g $(WARN) -fno-math-errno -fno-trapping-math
USE_BLAS := $(if $(BLAS_RAN),-DUSE_BLAS -DBLAS_NAME='"$(BLAS_NAME)"' $(filter -I% -D%,$(BLAS_LIBS)))
USE_OMP := $(or $(OMP),$(NO_OMP))
CFLAGS := $(BASE) $(USE_OMP) $(USE_BLAS)
LIBS := $(filter-out -I% -D%,$(BLAS_LIBS)) -lm
COMMIT := $(or $(shell git describe --always --dirty --exclude='*' 2>/dev/null),unknown)

TOOLS := dev/specialisation dev/logits dev/stats dev/colour dev/alarms dev/edges dev/skeleton dev/walk dev/view
SCRIPTS := $(wildcard test/test_*.sh)
TESTS := $(patsubst %.c,%,$(wildcard test/test_*.c))
SOURCES := train_gpt2_dynmoe.c $(wildcard data/*.c dev/*.c)

# A stamp changes only when its text does, so new flags rebuild everything, a new commit only the program that names it.
.flags.tmp: FORCE
	$(if $(MARCH),,@echo "no working C compiler: $(CC)"; echo "---> HINT: run dev/setup.sh"; exit 1)
	@printf '%s\n' $(CC) $(CFLAGS) $(LIBS) > $@.new.tmp; cmp -s $@.new.tmp $@ || cp $@.new.tmp $@; rm $@.new.tmp
.commit.tmp: FORCE
	@echo $(COMMIT) > $@.new.tmp; cmp -s $@.new.tmp $@ || cp $@.new.tmp $@; rm $@.new.tmp

all: train_gpt2_dynmoe data/languages data/tokenize data/shapes $(TOOLS) dev/bench ## build the programs
	@echo "built $^: make train shows what they do"

train_gpt2_dynmoe: train_gpt2_dynmoe.c .flags.tmp .commit.tmp
	$(CC) $(CFLAGS) -DCOMMIT='"$(COMMIT)"' $< -o $@ $(LIBS)
	@echo "built $@ with $(BLAS_NAME), $(if $(OMP),OpenMP,no OpenMP): ./$@ --help"

data/languages data/tokenize data/shapes: %: %.c .flags.tmp
	$(CC) $(CFLAGS) $< -o $@ -lm
	@echo "built $@: ./$@ --help"

# ---- CUDA: with nvcc, or on the CPU with g++ ---------------------------------------------------------------------------

# per-thread: the default stream is one that a graph can capture, see queues_make
NVCC_FLAGS := -O3 -std=c++17 -default-stream per-thread -diag-suppress 20012,177,549
CUDACPU := dev/cuda_on_cpu/cudacpu-cc
CUDACPU_FILES := $(wildcard dev/cuda_on_cpu/*.c dev/cuda_on_cpu/*.cpp dev/cuda_on_cpu/*.h dev/cuda_on_cpu/include/*) $(CUDACPU)
ifeq ($(CUDA_ON_CPU),1)
  CUDA_CC := $(CUDACPU) -O2 -DCOMMIT='"$(COMMIT)"'
  CUDA_LIBS :=
  CUDA_HOW := for the CPU (CUDA_ON_CPU=1)
else
  CUDA_CC = $(NVCC) $(NVCC_FLAGS) $(ARCH) -DCOMMIT='"$(COMMIT)"'
  CUDA_LIBS := -lcublas -lcublasLt
  CUDA_HOW = with nvcc, $(ARCH)$(if $(GPU),$(,) for $(GPU))
endif
# what the tests add: the C program beside the CUDA program
BLAS_FLAGS := $(if $(BLAS_RAN),-DUSE_BLAS $(filter -I% -D%,$(BLAS_LIBS)))
CUDA_TEST_FLAGS = -I. $(BLAS_FLAGS) $(if $(filter 1,$(CUDA_ON_CPU)),$(OMP),$(if $(OMP),-Xcompiler $(OMP)))
CUDA_TEST_LIBS = $(if $(filter 1,$(CUDA_ON_CPU)),$(LIBS),$(patsubst -Wl$(,)%,-Xlinker %,$(LIBS)))
need_nvcc = $(if $(filter 1,$(CUDA_ON_CPU)),,$(if $(NVCC),,@echo "no nvcc, which CUDA programs need"; \
    echo "---> HINT: install NVIDIA's CUDA toolkit, or use CUDA_ON_CPU=1"; exit 1))

.cuda.tmp: FORCE
	@printf '%s\n' '$(CUDA_ON_CPU)' > $@.new.tmp; cmp -s $@.new.tmp $@ || cp $@.new.tmp $@; rm $@.new.tmp

test/fixture_vit_cuda: test/fixture_vit_cuda.cu test/fixture_vit.c test/fixture_compare.h train_vit_dynmoe.cu .cuda.tmp \
        $(CUDACPU_FILES)
	$(need_nvcc)
	$(CUDA_CC) $(CUDA_TEST_FLAGS) -o $@ $< $(CUDA_LIBS) $(CUDA_TEST_LIBS)
train_gpt2_dynmoe_cu: train_gpt2_dynmoe.cu
train_vit_dynmoe: train_vit_dynmoe.cu
train_gpt2_dynmoe_cu train_vit_dynmoe: .cuda.tmp .commit.tmp $(CUDACPU_FILES)
	$(need_nvcc)
	$(CUDA_CC) -o $@ $(filter %.cu,$^) $(CUDA_LIBS)
	@echo "built $@ $(CUDA_HOW): ./$@ --help"
test/fixture_cuda: test/fixture_cuda.cu test/fixture.c train_gpt2_dynmoe.cu .cuda.tmp $(CUDACPU_FILES)
	$(need_nvcc)
	$(CUDA_CC) $(CUDA_TEST_FLAGS) -o $@ $< $(CUDA_LIBS) $(CUDA_TEST_LIBS)
test/test_cuda test/test_cuda_check: test/test_gpt2_dynmoe.cu train_gpt2_dynmoe.cu
test/test_cuda_vit test/test_cuda_vit_check: test/test_vit_dynmoe.cu train_vit_dynmoe.cu test/vit_reference.h
test/test_cuda test/test_cuda_vit: train_gpt2_dynmoe.c test/cuda_compare.h test/cuda_reference.h .cuda.tmp $(CUDACPU_FILES)
	$(need_nvcc)
	$(CUDA_CC) $(CUDA_TEST_FLAGS) -o $@ $(filter test/%.cu,$^) $(CUDA_LIBS) $(CUDA_TEST_LIBS) $(filter -l%,$(CHECK)) -lpthread
test/test_cuda_check test/test_cuda_vit_check: train_gpt2_dynmoe.c test/cuda_compare.h test/cuda_reference.h $(CUDACPU_FILES)
	$(CUDACPU) --check $(CUDA_TEST_FLAGS) -o $@ $(filter test/%.cu,$^) $(LIBS) $(filter -l%,$(CHECK)) -lpthread
dev/kernels_gpt2 dev/kernels_vit: dev/kernels.cu train_gpt2_dynmoe.cu train_vit_dynmoe.cu $(CUDACPU_FILES)
	$(CUDACPU) --check -O1 $(if $(filter %_vit,$@),-DVIT) -o $@ $<

# dev/bench has a clock at the functions of the program, but not in the small ones that loops call
CLOCKS = $(eval CLOCKS := $(call first_that_runs,,int main(void) { return 0; },"-finstrument-functions \
    -finstrument-functions-exclude-function-list=exp_fast$(,)sigmoid$(,)sgemm$(,)softmax_row$(,)norm_of$(,)random_" \
    "-finstrument-functions-after-inlining"))$(CLOCKS)
dev/bench: dev/bench.c train_gpt2_dynmoe.c .flags.tmp .commit.tmp
	$(CC) $(CFLAGS) -DCOMMIT='"$(COMMIT)"' -I. -Wno-unused-function -Wno-string-compare $(CLOCKS) $< -o $@ $(LIBS)

# What follows includes the program. Functions that only main calls are then unused.
TEST_FLAGS := -I. -Wno-unused-function
$(TOOLS) test/fixture test/fixture_vit: %: %.c $(SOURCES) .flags.tmp
	$(CC) $(CFLAGS) $(TEST_FLAGS) $< -o $@ $(LIBS)
	@echo "built $@"
test/fixture test/fixture_no_blas test/fixture_no_openmp test/fixture_cuda: test/fixture_compare.h
test/fixture_vit: test/fixture_compare.h test/vit_reference.h
$(TESTS): %: %.c test/suite.h $(SOURCES) .flags.tmp
	$(if $(CHECK),,@echo "the tests need Check, which is not there"; echo "---> HINT: run dev/setup.sh"; exit 1)
	$(CC) $(CFLAGS) $(TEST_FLAGS) $< -o $@ $(LIBS) $(CHECK)
$(TESTS:=_sanitize): %_sanitize: %.c test/suite.h $(SOURCES) .flags.tmp
	$(CC) $(subst -O3,-O0,$(CFLAGS)) $(TEST_FLAGS) $(SANITIZE) -fno-sanitize-recover=all $< -o $@ $(LIBS) $(CHECK)
test/fixture_no_blas: test/fixture.c $(SOURCES) .flags.tmp
	$(CC) $(BASE) $(USE_OMP) $(TEST_FLAGS) $< -o $@ -lm
test/fixture_no_openmp: test/fixture.c $(SOURCES) .flags.tmp
	$(CC) $(BASE) $(NO_OMP) $(USE_BLAS) $(TEST_FLAGS) $< -o $@ $(LIBS)

# ---- data and training ------------------------------------------------------------------------------------------------

data/languages_train.txt: data/languages
	data/languages --seed 1 --bytes 2097152 --out $@
data/languages_val.truth: data/languages
	data/languages --seed 2 --bytes 131072 --out data/languages_val.txt --truth $@
data/languages_val.txt: data/languages_val.truth ;

DATA := --data data/languages_train.txt --val data/languages_val.txt
data: data/languages_train.txt data/languages_val.txt ## generate the text of six little languages
	@echo "made data/languages_train.txt and data/languages_val.txt: ./train_gpt2_dynmoe $(DATA)"

data/shapes_train.bin: data/shapes
	data/shapes --seed 1 --n 20000 --out $@
data/shapes_val.truth: data/shapes
	data/shapes --seed 2 --n 2000 --out data/shapes_val.bin --truth $@
data/shapes_val.bin: data/shapes_val.truth ;

data-vit: data/shapes_train.bin data/shapes_val.bin ## generate pictures of eight shapes in four styles
	@echo "made data/shapes_train.bin and data/shapes_val.bin: data/shapes --sheet sheet.ppm draws examples to look at"

# which program trains: the C one, or with CUDA=1 or CUDA_ON_CPU=1 the CUDA one
PROGRAM := train_gpt2_dynmoe$(if $(filter 1,$(CUDA) $(CUDA_ON_CPU)),_cu)

train train-vit: dev/view
train: $(PROGRAM) dev/specialisation dev/alarms data ## train the default model, then show which expert serves which language
	@mkdir -p $(OUT)/untrained
	./$(PROGRAM) $(DATA) --out $(OUT) --steps $(STEPS) --dump-routing $(OUT)/routing.safetensors $(ARGS)
	@echo "the same gate before any training, to compare with (its output: $(OUT)/untrained/output.txt)"
	@./$(PROGRAM) $(DATA) $(ARGS) --out $(OUT)/untrained --steps 0 --dump-routing $(OUT)/untrained.safetensors \
	    > $(OUT)/untrained/output.txt 2>&1 || { cat $(OUT)/untrained/output.txt; exit 1; }
	dev/specialisation data/languages_val.truth $(OUT)/routing.safetensors $(OUT)/untrained.safetensors
	-@dev/view $(OUT)
	@dev/alarms $(OUT)/log.jsonl
	@echo "trained $(STEPS) steps: the model, its log and its routing are in $(OUT)/"

# the vision program: as it is, 2000 steps of its default model
VIT_OUT = $(if $(filter file,$(origin OUT)),out_vit,$(OUT))
train-vit: train_vit_dynmoe dev/edges dev/alarms data-vit ## train the vision model on shapes (CUDA_ON_CPU=1: with few STEPS)
	./train_vit_dynmoe --data data/shapes_train.bin --val data/shapes_val.bin --out $(VIT_OUT) \
	    $(if $(filter file,$(origin STEPS)),,--steps $(STEPS)) --dump-routing $(VIT_OUT)/routing.safetensors $(ARGS)
	@mkdir -p $(VIT_OUT)/untrained
	@./train_vit_dynmoe --data data/shapes_train.bin --val data/shapes_val.bin $(ARGS) --out $(VIT_OUT)/untrained --steps 0 \
	    --dump-routing $(VIT_OUT)/untrained.safetensors > $(VIT_OUT)/untrained/output.txt 2>&1 || \
	    { cat $(VIT_OUT)/untrained/output.txt; exit 1; }
	dev/edges data/shapes_val.truth $(VIT_OUT)/routing.safetensors $(VIT_OUT)/untrained.safetensors
	-@dev/view $(VIT_OUT)
	@dev/alarms $(VIT_OUT)/log.jsonl

ablation: train_gpt2_dynmoe data ## train variants of the model beside each other (hours; dev/ablation.sh says which)
	dev/ablation.sh $(ARGS)

compare: all data ## top-any beside dense, top-1, 2, 4 and top-p from the same seeds (dev/compare.sh; 40 minutes)
	dev/compare.sh

bench: dev/bench ## time a training step of three sizes, its parts, and how fast products alone go (minutes)
	dev/bench $(ARGS)
bench-peer: $(patsubst %.c,%,$(wildcard dev/bench.c)) dev/skeleton ## a training step beside PyTorch's (after dev/setup.sh --peer)
	dev/bench_peer.sh $(ARGS)

plot: ## draw the runs in OUT (several with OUT="out out2"): loss, experts, load, k, languages (needs dev/setup.sh --oracle)
	$(or $(PYTHON),python3) dev/plot.py $(OUT)
view: dev/view ## write OUT/view.html, a page to look at the runs in OUT with: curves, experts, load, each token's experts
	dev/view $(OUT) $(ARGS)

pictures: all ## draw the pictures of docs/ from the run in OUT (needs make train and dev/setup.sh --oracle)
	$(or $(PYTHON),python3) dev/pictures.py $(OUT)

# ---- tests: `make test` runs all, each part has its own target --------------------------------------------------------

FIXTURES := $(or $(FIXTURE),$(wildcard test/fixtures/*.safetensors test/fixtures/*.txt))
which = $(foreach c,$(1),$(if $(shell command -v $(c) 2>/dev/null),$(c)))
COMPILERS = $(call which,gcc clang)
CXX = $(firstword $(call which,g++ clang++))
# the last two lines of what a program says, or all of it if it fails
shortly = said=$$($(1) 2>&1) || { echo "$$said"; exit 1; }; echo "$$said" | tail -n 2

test: test-programs check-style test-scripts test-builds fixture fixture-vit test-unit test-sanitize test-fuzz ## run all tests
	$(MAKE) test-cuda CUDA_ON_CPU=1
	CUDA_ON_CPU=1 dev/cuda/ladder.sh routing
	dev/cuda_on_cpu/test/run.sh --quick
	@echo "Passed: style guards, $(words $(SCRIPTS)) scripts, builds with $(COMPILERS)$(if $(CXX), and $(CXX) as C++11)," \
	    "without BLAS, without OpenMP; $(words $(FIXTURES)) fixtures; $(words $(TESTS)) test programs, at -O3 and" \
	    "at -O0$(if $(SANITIZE), with sanitizers); fuzzed readers; the CUDA source on the CPU."

# first what takes compilers long, two at a time
test-programs:
	$(MAKE) -j2 all $(TESTS) $(TESTS:=_sanitize) test/fuzz test/fuzz_tokenize test/fixture test/fixture_vit \
	    test/fixture_no_blas test/fixture_no_openmp
	$(MAKE) -j2 CUDA_ON_CPU=1 train_gpt2_dynmoe_cu train_vit_dynmoe test/test_cuda test/test_cuda_vit test/fixture_cuda \
	    test/fixture_vit_cuda test/fuzz_vit

test-scripts: all ## run the shell tests: the command line, and that the guards of the style catch what they should
	@set -e; for t in $(SCRIPTS); do echo "--- $$t"; sh $$t; done

# -S stops before the assembler: warnings that need the optimiser are seen, nothing is written.
test-builds: test/fixture_no_blas test/fixture_no_openmp ## compile with other compilers, as C++, without BLAS, without OpenMP
	@set -e; for c in $(COMPILERS); do \
	    omp="$(OMP)"; echo | $$c $(OMP) -include omp.h -E -x c - > /dev/null 2>&1 || omp=$(NO_OMP); \
	    for f in $(SOURCES); do echo "compiles with $$c: $$f"; \
	        $$c $(BASE) $$omp $(USE_BLAS) -S $$f -o /dev/null; done; done
	$(if $(CXX),$(CXX) -x c++ -std=c++11 -fsyntax-only $(CFLAGS) train_gpt2_dynmoe.c)
	@echo "without BLAS:"; $(call shortly,test/fixture_no_blas $(firstword $(FIXTURES)))

fixture: test/fixture ## compare with what float64 PyTorch computed: all fixtures, or FIXTURE=file
	$(if $(FIXTURE),test/fixture $(FIXTURE),@for f in $(FIXTURES); do \
	    $(call shortly,test/fixture $$f); done)
	@echo "agrees with $(words $(FIXTURES)) fixtures: make fixture FIXTURE=file for one"
VIT_FIXTURES := $(or $(FIXTURE),$(wildcard test/fixtures_vit/*.safetensors))
VIT_RUNNERS := test/fixture_vit $(if $(filter 1,$(CUDA) $(CUDA_ON_CPU)),test/fixture_vit_cuda)
fixture-vit: $(VIT_RUNNERS) ## the same for the ViT: its C reference, with CUDA=1 or CUDA_ON_CPU=1 the CUDA program too
	$(if $(VIT_FIXTURES),,@echo "no test/fixtures_vit/*.safetensors"; echo "---> HINT: make fixtures-again"; exit 1)
	@set -e; for r in $(VIT_RUNNERS); do for f in $(VIT_FIXTURES); do \
	    $(if $(FIXTURE),$$r $$f,$(call shortly,$$r $$f)); done; done
	@echo "agrees with $(words $(VIT_FIXTURES)) fixtures: make fixture-vit FIXTURE=file for one"

test-unit: all $(TESTS) ## run the test programs
	@set -e; for t in $(TESTS); do echo "--- $$t"; $$t; done

# Leaks are not looked for: tests leave streams and maps to the end of their process.
test-sanitize: all $(TESTS:=_sanitize) ## the same at -O0 with AddressSanitizer and UBSan, where the compiler has them
	@set -e; for t in $(TESTS:=_sanitize); do echo "--- $$t"; ASAN_OPTIONS=detect_leaks=0 CK_TIMEOUT_MULTIPLIER=20 $$t; done

# inputs
FUZZ ?= 20000
test-fuzz: test/fuzz test/fuzz_tokenize test/fuzz_vit ## broken files of every kind, FUZZ=20000 a program, with sanitizers
	test/fuzz 1 $(FUZZ)
	test/fuzz_tokenize 1 $(FUZZ)
	test/fuzz_vit 1 $(FUZZ)
FUZZ_FILES := test/fuzz_system.h test/fuzz_model.h test/fuzz_run.h
test/fuzz test/fuzz_tokenize test/fuzz_vit: $(FUZZ_FILES)
test/fuzz_vit: test/fuzz_vit.cu train_vit_dynmoe.cu $(CUDACPU_FILES)
	$(CUDACPU) --asan -Itest -o $@ $<
test/fuzz: test/fuzz.c $(SOURCES) .flags.tmp
	$(CC) $(subst -O3,-O1,$(CFLAGS)) $(TEST_FLAGS) $(SANITIZE) -fno-sanitize-recover=all $< -o $@ $(LIBS)
test/fuzz_tokenize: test/fuzz.c $(SOURCES) .flags.tmp
	$(CC) $(subst -O3,-O1,$(CFLAGS)) -DTOKENIZE $(TEST_FLAGS) $(SANITIZE) -fno-sanitize-recover=all $< -o $@ $(LIBS)

test-cuda: test/test_cuda test/test_cuda_vit test/fixture_cuda test/fixture_vit_cuda train_vit_dynmoe ## the CUDA programs against C
	test/test_cuda
	test/test_cuda_vit
	sh test/vit_cli.sh
	@set -e; for f in $(FIXTURES); do $(call shortly,test/fixture_cuda $$f); done
	@set -e; for f in $(wildcard test/fixtures_vit/*.safetensors); do $(call shortly,test/fixture_vit_cuda $$f); done
	@echo "the CUDA programs agree with C, and with $(words $(FIXTURES) $(wildcard test/fixtures_vit/*.safetensors)) fixtures"
fixture-cuda: test/fixture_cuda ## fixtures through the CUDA program: all, or FIXTURE=file
	$(if $(FIXTURE),test/fixture_cuda $(FIXTURE),@for f in $(FIXTURES); do $(call shortly,test/fixture_cuda $$f); done)

ladder: ## check every rung of the kernel ladders of dev/cuda, and time them where there is a GPU (docs/cuda.md)
	CUDA_ON_CPU=$(CUDA_ON_CPU) NVCC=$(NVCC) COMMIT=$(COMMIT) dev/cuda/ladder.sh $(ARGS)

# Bits must not depend on the order in which threads and blocks run, and no access may race or go astray.
test-long: ## the CUDA source on the CPU in other orders and with its accesses checked; the emulation's own tests (minutes)
	$(MAKE) CUDA_ON_CPU=1 test/test_cuda test/test_cuda_vit
	set -e; for t in test/test_cuda test/test_cuda_vit; do \
	    for order in "forward 1" "reverse 1" "random 1" "random 2"; do \
	        CUDACPU_ORDER=$${order% *} CUDACPU_SEED=$${order#* } $$t; done; \
	    for streams in late early turns; do CUDACPU_STREAMS=$$streams $$t; done; done
	$(MAKE) CUDA_ON_CPU=1 test/test_cuda_check test/test_cuda_vit_check
	test/test_cuda_check
	test/test_cuda_vit_check
	$(MAKE) kernels
	$(MAKE) CUDA_ON_CPU=1 all data train_gpt2_dynmoe_cu
	sh test/train_both.sh
	CUDA_ON_CPU=1 dev/cuda/ladder.sh
	dev/cuda/ladder.sh --check
	NVCC=$(NVCC) FLAGS="-O3 -std=c++17 -Werror all-warnings" dev/ptxas_check.sh $(wildcard dev/cuda/*.cu)
	dev/cuda_on_cpu/test/run.sh
	$(MAKE) ptxas

kernels: dev/kernels_gpt2 dev/kernels_vit ## bytes of every kernel, counted by the emulation, against the formulas of docs/cuda.md
	python3 dev/kernels.py --count dev/kernels_gpt2
	python3 dev/kernels.py --count dev/kernels_vit --vit

ptxas: ## registers and spills of every kernel, ARGS=--mix its instructions (needs nvcc, no GPU)
	NVCC=$(NVCC) FLAGS="$(NVCC_FLAGS)" dev/ptxas_check.sh $(ARGS)

test-view: all ## the page of dev/view in headless Chromium (after dev/setup.sh --view; a minute)
	$(MAKE) CUDA_ON_CPU=1 train_vit_dynmoe
	sh test/view_check.sh $(SHOTS)

valgrind: ## short runs under valgrind, if it is installed (a minute)
	sh test/valgrind.sh

mutants: ## one-line bugs in all three programs: each must make a test or a fixture fail (half an hour)
	dev/mutants.sh
	dev/mutants.sh --cuda-sample
	dev/mutants.sh --vit
mutants-cuda: ## those of the CUDA program alone, run without a GPU: the sample, or with ALL=1 the whole set
	dev/mutants.sh $(if $(filter 1,$(ALL)),--cuda,--cuda-sample)

# ---- assignments: docs/assignments/README.md --------------------------------------------------------------------------

# what the next targets take: A=1 a number, Q=a1.q2 a question, SRC=file, OUT=dir; VARIANT=n SEED=n JSON=1 SHOW=1
ASSIGNMENT = CC='$(CC)' VARIANT=$(VARIANT) SEED=$(SEED) JSON=$(JSON) SHOW=$(SHOW) CUDA=$(CUDA) dev/assignment.sh
VARIANT ?= 0
SEED ?= 1
need_out = $(if $(filter file,$(origin OUT)),@echo "OUT=folder says where to"; exit 2)
assignment: ## what a student gets: A=1 OUT=dir
	$(need_out)
	@$(ASSIGNMENT) make "$(A)" "$(OUT)"
course: ## all assignments: OUT=dir VARIANT=7 (0: none), see docs/assignments/README.md
	$(need_out)
	@$(ASSIGNMENT) course "$(OUT)"
grade: ## score a student's file: A=1 SRC=file [SEED=7 VARIANT=7 JSON=1; A=4, 5: CUDA=1]
	@$(ASSIGNMENT) grade "$(A)" "$(SRC)"
hint: ## a hint for one question: Q=a1.q2
	@$(ASSIGNMENT) hint "$(Q)"
solution: ## the reference functions of a question: Q=a1.q2
	@$(ASSIGNMENT) solution "$(Q)"
assignments-check: all ## are starters, graders, variants and tables of points sound? (minutes; A=1 for one)
	$(ASSIGNMENT) check $(if $(A),a$(A))
	$(if $(A),,sh test/test_assignments.sh --all)

# ---- upkeep -----------------------------------------------------------------------------------------------------------

check-style: train_gpt2_dynmoe ## check what the programs and the docs promise (seconds)
	dev/check_style.sh

docs-flags: train_gpt2_dynmoe ## write what --help prints into docs/flags.md
	dev/check_style.sh --write-flags

docs-kernels: ## write the tables of docs/cuda.md: what each kernel reads, writes and computes
	python3 dev/kernels.py --into docs/cuda.md

docs-links: ## point the links `file:line name` in the docs at where the names stand now
	dev/check_style.sh --write-links

docs-examples: dev/walk ## write what dev/walk prints into docs/walkthrough.md
	@set -e; for n in $$(dev/walk --list); do dev/walk $$n | python3 dev/markers.py docs/walkthrough.md walk-$$n; done

fixtures-again: ## compute the fixtures again (needs dev/setup.sh --oracle)
	$(or $(PYTHON),python3) dev/dynmoe.py fixtures
	@echo "made test/fixtures and test/fixtures_vit: make fixture fixture-vit compares the programs"

clean: ## remove what was built and generated, but no training results
	rm -f train_gpt2_dynmoe train_gpt2_dynmoe_cu train_vit_dynmoe data/languages data/tokenize data/shapes $(TOOLS) \
	    dev/kernels_gpt2 dev/kernels_vit \
	    test/fixture test/fixture_no_blas test/fixture_no_openmp test/fixture_cuda test/fixture_vit test/fixture_vit_cuda \
	    test/test_cuda test/test_cuda_check test/test_cuda_vit test/test_cuda_vit_check test/fuzz test/fuzz_tokenize \
	    test/fuzz_vit .cuda.tmp
	rm -rf dev/cuda/build.tmp cudacpu.tmp test/cudacpu.tmp dev/cuda_on_cpu/test/out.tmp
	rm -f $(TESTS) $(TESTS:=_sanitize) .flags.tmp .commit.tmp data/languages_train.txt data/languages_val.txt \
	    data/languages_val.truth data/shapes_train.bin data/shapes_val.bin data/shapes_val.truth
	@echo "removed what was built; training results in $(OUT)/ are still there"
