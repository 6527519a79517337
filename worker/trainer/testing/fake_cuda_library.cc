// Stands for libanneal_trainer_cuda.so and for the libraries that come with it, as far as looking
// at them goes: it starts no device. With FAKE_CUDA_ERROR in the environment CUDA says that it does
// not start. Built as a shared library, copied beside anneal-trainer by tests.

#include <cstdlib>

extern "C" {
int ncclGetVersion(int* version) {
  *version = 22705;
  return 0;
}
int cudaGetDeviceCount(int* count) {
  *count = 2;
  return std::getenv("FAKE_CUDA_ERROR") == nullptr ? 0 : 35;
}
const char* cudaGetErrorString(int) { return "the driver is too old"; }
}
