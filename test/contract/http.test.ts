import { behaviour } from './behaviour.ts';
import { httpDriver } from './http-driver.ts';

behaviour('HTTP', httpDriver);
