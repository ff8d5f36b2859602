# SPDX-License-Identifier: MIT
#
#   attune::attune   core, concepts, objective, train, eval, testing: the standard library alone; links nothing
#   attune::eigen    + Eigen and threads: backend/eigen*, model/decoder
#   attune::io       + fmt and zlib: io/
#   attune::data     + range-v3 and attune::io: data/
#   attune::xtensor  + xtensor: for who passes its tensors through backend/xtensor.hpp, which includes nothing of it
#   attune::torch    + LibTorch and attune::eigen: backend/torch, torch/
#
# All headers are carried by attune::attune; the others add what must be linked. Every target is defined and installed
# always, but has its public name here only where its third parties are found, so that linking it anywhere else is an
# error at configure time that names the target.
include(cmake/components.cmake)

file(GLOB_RECURSE attune_headers CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/include/attune/*.hpp")
# For a CUDA compiler alone, with --expt-relaxed-constexpr: cuda/. Carried like all others; what is linked to them is the
# runtime and, for cuda/cublaslt_gemm.cuh, cuBLASLt.
file(GLOB_RECURSE attune_cuda_headers CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/include/attune/*.cuh")
add_library(attune_attune INTERFACE)
add_library(attune::attune ALIAS attune_attune)
set_target_properties(attune_attune PROPERTIES EXPORT_NAME attune)
target_compile_features(attune_attune INTERFACE cxx_std_20)
target_sources(attune_attune INTERFACE FILE_SET HEADERS BASE_DIRS include FILES ${attune_headers} ${attune_cuda_headers})

set(attune_eigen_links Eigen3::Eigen Threads::Threads)
set(attune_io_links fmt::fmt ZLIB::ZLIB)
set(attune_data_links attune_io range-v3::range-v3)
set(attune_xtensor_links xtensor)
set(attune_torch_links attune_eigen attune_libtorch)
foreach(component IN LISTS attune_components)
  add_library(attune_${component} INTERFACE)
  set_target_properties(attune_${component} PROPERTIES EXPORT_NAME ${component})
  target_link_libraries(attune_${component} INTERFACE attune_attune ${attune_${component}_links})
  if(component STREQUAL "torch" AND NOT ATTUNE_TORCH)
    set(attune_torch_missing "ATTUNE_TORCH is off")
  else()
    attune_find_dependencies(${component})
  endif()
  if(attune_${component}_missing)
    message(STATUS "attune::${component} is not available: ${attune_${component}_missing}")
  else()
    add_library(attune::${component} ALIAS attune_${component})
  endif()
endforeach()
