# SPDX-License-Identifier: MIT
#
# find_package(attune 0.1)                       attune::attune, and each of the others whose third parties are found
# find_package(attune 0.1 COMPONENTS eigen io)   an error that names the missing third party if one is missing
# From an installation, or from this build tree with -Dattune_DIR=<build tree>.
include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

set(attune_package_folder ${CMAKE_INSTALL_DATADIR}/cmake/attune)
install(TARGETS attune_attune EXPORT attune FILE_SET HEADERS DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT attune NAMESPACE attune:: FILE attuneTargets.cmake DESTINATION ${attune_package_folder})
export(EXPORT attune NAMESPACE attune:: FILE "${PROJECT_BINARY_DIR}/attuneTargets.cmake")
foreach(component IN LISTS attune_components)
  install(TARGETS attune_${component} EXPORT attune_${component})
  install(EXPORT attune_${component} NAMESPACE attune:: FILE attune_${component}Targets.cmake
          DESTINATION ${attune_package_folder})
  export(EXPORT attune_${component} NAMESPACE attune:: FILE "${PROJECT_BINARY_DIR}/attune_${component}Targets.cmake")
endforeach()

configure_package_config_file(cmake/attuneConfig.cmake.in "${PROJECT_BINARY_DIR}/attuneConfig.cmake"
                              INSTALL_DESTINATION ${attune_package_folder} NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file("${PROJECT_BINARY_DIR}/attuneConfigVersion.cmake" COMPATIBILITY SameMinorVersion
                                 ARCH_INDEPENDENT)
configure_file(cmake/components.cmake "${PROJECT_BINARY_DIR}/components.cmake" COPYONLY)
install(FILES "${PROJECT_BINARY_DIR}/attuneConfig.cmake" "${PROJECT_BINARY_DIR}/attuneConfigVersion.cmake"
              "${PROJECT_BINARY_DIR}/components.cmake" DESTINATION ${attune_package_folder})
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})

# For builds without CMake; the core alone, as it needs no libraries.
configure_file(cmake/attune.pc.in "${PROJECT_BINARY_DIR}/attune.pc" @ONLY)
install(FILES "${PROJECT_BINARY_DIR}/attune.pc" DESTINATION ${CMAKE_INSTALL_DATADIR}/pkgconfig)
