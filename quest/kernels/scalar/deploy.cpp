// The operations of deploy.h for any CPU. Every level gives the same bits.
#include "quest/kernels/deploy_body.h"
#include "quest/kernels/scalar/lanes_scalar.h"

namespace quest::kernels::detail {

const DeployLevel& deploy_scalar() { return DeployTable<scalar::Lanes>::kLevel; }

}  // namespace quest::kernels::detail
