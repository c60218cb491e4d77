// Gives a library the entry points of libcuda, of fake_driver.cc, that launch its emulated kernel.
#pragma once

namespace fake {
extern void (*kernel)(void**);
extern const char* kernel_name;
}  // namespace fake

#define FAKE_DRIVER(function)                                                          \
  static const bool installed = [] {                                                   \
    fake::kernel = [](void** each) { unpack_all(function, each); };                    \
    fake::kernel_name = #function;                                                     \
    return true;                                                                       \
  }();
