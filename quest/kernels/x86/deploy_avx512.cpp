#include "quest/kernels/deploy_body.h"
#include "quest/kernels/x86/lanes_avx512.h"

namespace quest::kernels::detail {

const DeployLevel& deploy_avx512() { return DeployTable<avx512::Lanes>::kLevel; }

}  // namespace quest::kernels::detail
